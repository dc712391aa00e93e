"""Reinforcement learning: Stable-Baselines3 agents as searchers, and what makes HAQ's and AutoQ's agents of them."""
