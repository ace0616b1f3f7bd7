"""A topic model by worker processes."""

import multiprocessing
import os

import numpy
from gensim.corpora import Dictionary
from gensim.models import LdaMulticore

TEXTS = [["cat", "dog", "pet", "fur"], ["stock", "bank", "money", "rate"], ["pet", "dog", "vet"], ["bank", "rate", "loan"]] * 10

if __name__ == "__main__":
    assert type(multiprocessing.get_context()).__module__.startswith(os.environ["WHOSE"])
    words = Dictionary(TEXTS)
    corpus = [words.doc2bow(text) for text in TEXTS]
    # One worker and one chunk: with more, the order of their results changes the model from run to run.
    model = LdaMulticore(corpus, id2word=words, num_topics=2, workers=1, passes=3, chunksize=len(corpus), random_state=numpy.random.RandomState(7))
    print(model.get_topics().round(3).tolist())
