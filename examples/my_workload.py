"""Bring your own network: a perceptron on scikit-learn's breast-cancer data, trained in a second.

Name it in a campaign file as ``examples/my_workload.py:MyWorkload``.
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from qsearch.workloads.base import ArrayWorkload, Samples, Splits


class MyWorkload(ArrayWorkload):
    name = "breast-cancer-mlp"
    classes = 2
    input_shape = (30,)

    def load(self) -> Splits:
        data = load_breast_cancer()
        samples = Samples(torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target))
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
        train, validation, test = (samples.take(part) for part in (order[:300], order[300:435], order[435:]))
        self.mean, self.deviation = train.inputs.mean(0), train.inputs.std(0)
        return Splits(calibration=train, validation=validation, test=test, train=train)

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs - self.mean) / self.deviation

    def network(self) -> nn.Module:
        train = self.splits.calibration
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
            optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=1e-3)
            for _ in range(150):
                optimiser.zero_grad()
                self.loss(network(self.prepare(train.inputs)), train.targets).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return network
