"""What several of the starter's tests need: the real weights where they are there, and a context that finds them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from lavcap_starter.fetch import WHEELS, Store


@dataclass
class StoreContext:
    """The part of the core's context that an encoder's factory needs."""

    store: Store
    inputs: Mapping = field(default_factory=dict)

    def locate(self, model):
        return str(self.store.get(model.removeprefix("starter:")))


@pytest.fixture(scope="session")
def real_context():
    store = Store()
    if (
        not all(store.has(name) for name in WHEELS if name != "sentences")
        and os.environ.get("LAVCAP_TEST_STARTER") != "1"
    ):
        pytest.skip("the starter's weights are not in the cache; LAVCAP_TEST_STARTER=1 fetches them")
    return StoreContext(store)
