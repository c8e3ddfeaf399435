"""What a request's model is in the store, ready to be used."""

from __future__ import annotations

from olla.errors import ModelNotFound
from olla.names import ModelName
from olla.registry.model import Model
from olla.registry.store import ModelStore


def resolve(store: ModelStore, text: str) -> Model:
    """Blocks on the disk, so it is for a thread.

    Raises:
        InvalidName: no model can be called that.
        ModelNotFound: with the name as the client spelt it.
        StoreError: it is broken.
    """
    try:
        model = store.resolve(ModelName.parse(text))
    except ModelNotFound as error:
        raise ModelNotFound(text) from error
    model.check_files()
    _ = model.header  # read here, in a thread; from now on it is in memory
    return model
