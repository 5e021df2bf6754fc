"""Put the address of the documentation into the metadata; see `address` in pyproject.toml."""

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class AddressHook(MetadataHookInterface):
    """Replace `{address}` in the project's URLs and in the links of its description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the URLs, and complete the description that hatch-fancy-pypi-readme has made."""
        address = self.config["address"]
        metadata["urls"] = {label: url.replace("{address}", address) for label, url in self.config["urls"].items()}
        metadata["readme"]["text"] = metadata["readme"]["text"].replace("{address}", address)
