"""A sampler that takes a pool."""

import multiprocessing
import os

import emcee
import numpy


def log_probability(place):
    return -0.5 * numpy.sum(place**2)


if __name__ == "__main__":
    assert type(multiprocessing.get_context()).__module__.startswith(os.environ["WHOSE"])
    numpy.random.seed(42)
    start = numpy.random.randn(16, 3)
    with multiprocessing.Pool(2) as pool:
        sampler = emcee.EnsembleSampler(16, 3, log_probability, pool=pool)
        sampler.run_mcmc(start, 50)
    print(sampler.get_chain(flat=True).sum(axis=0).round(9).tolist(), round(float(sampler.acceptance_fraction.mean()), 9))
