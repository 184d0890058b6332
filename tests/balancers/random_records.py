"""Records that the tests of several methods draw."""

import torch


def losses(num_records, num_tasks):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_records, num_tasks, generator=generator, dtype=torch.float64) * 3 + 0.1


def gramians(num_records, num_tasks, seed=0, shared=0.3):
    """Gramians of random gradients of unequal norms that have something in common."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num_records, num_tasks, 12, generator=generator, dtype=torch.float64)
    vectors = vectors + shared * torch.randn(num_records, 1, 12, generator=generator, dtype=torch.float64)
    vectors = vectors * torch.logspace(-0.5, 0.5, num_tasks, dtype=torch.float64)[:, None]
    return vectors @ vectors.mT
