"""Loads adapters into a vLLM server while it runs."""

import asyncio
from pathlib import Path

from drift.engine import answer
from drift.engine.endpoint import Endpoint
from drift.errors import UserError
from drift.masking import mask


def load_adapter(endpoint: Endpoint, name: str, directory: Path) -> None:
    """Has the server load the adapter in a directory under this name; does nothing if it has one of that name."""
    try:
        asyncio.run(_post(endpoint, "/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)}))
    except answer.Failure as failure:
        if "already been loaded" in str(failure):
            return
        raise UserError(
            f"{endpoint.url} did not load the adapter {directory}: {mask(str(failure), endpoint.secret())}. Expected a vLLM server "
            "that sees this directory and was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and a "
            "--max-lora-rank of at least the adapter's rank. Fix that and run the same command again."
        ) from failure


async def _post(endpoint: Endpoint, path: str, content: dict[str, str]) -> None:
    import httpx

    async with answer.open_client(endpoint.url, endpoint.secret() or None, endpoint.timeout_seconds) as client:
        try:
            await client.post(path, body=content, cast_to=httpx.Response)
        except Exception as error:  # of any of three layers of libraries
            raise answer.as_failure(error, endpoint.timeout_seconds) from error
