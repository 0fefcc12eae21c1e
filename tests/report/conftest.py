import pytest
from made_up_contents import made_up

from xpruner.report.page import page


@pytest.fixture(scope="session")
def thousand_classes() -> str:
    """The page of a DeiT-small with 1,000 classes."""
    sizes = {f"blocks.{i}.{key}": size for i in range(12) for key, size in (("attn:head", 6), ("mlp:hidden", 1536))}
    return page(made_up([f"class {i} with a name as long as they are" for i in range(1000)], sizes))
