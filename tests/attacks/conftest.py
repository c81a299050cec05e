"""What the attacks of several modules are tried on."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import attack_system  # not before jaxtyping's hook, which conftest files precede

    return attack_system.trained(tmp_path_factory.mktemp("system") / "c.safetensors")
