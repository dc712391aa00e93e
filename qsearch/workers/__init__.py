"""Workers: other processes, here or on other machines, that evaluate in the place of the campaign's own."""
