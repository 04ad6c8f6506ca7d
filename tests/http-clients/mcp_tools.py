"""Calls the tools for agents with the official MCP client, which discovers the server by the newest version of the
protocol, and initializes by the older ones. Usage: python mcp_tools.py URL"""

import asyncio
import sys

import httpx2
import requests
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

url = sys.argv[1]


async def use_tools(secret_key, mode):
    headers = {"Authorization": f"Bearer {secret_key}"}
    async with httpx2.AsyncClient(headers=headers) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert tools == {"get_segments", "get_packages", "upsert_package"}, tools
            segments = (await client.call_tool("get_segments", {})).structured_content["segments"]
            assert [segment["slug"] for segment in segments] == ["general"], segments
            package = {"slug": f"from-{mode}", "title": "Gold", "priceCents": 100, "segmentId": segments[0]["id"]}
            for expected in ["CREATED", "UPDATED"]:
                result = await client.call_tool("upsert_package", package)
                assert result.structured_content["action"] == expected, result
            dry_run = await client.call_tool("upsert_package", {**package, "priceCents": 5, "dryRun": True})
            assert dry_run.structured_content["previousPrice"] == 100, dry_run
            packages = (await client.call_tool("get_packages", {})).structured_content["packages"]
            assert {package["slug"]: package["priceCents"] for package in packages}[f"from-{mode}"] == 100
            failed = await client.call_tool("upsert_package", {"title": "Silver"})
            assert failed.is_error and failed.content[0].text == "INVALID_REQUEST: priceCents is required", failed


tenant = {"slug": "from-mcp", "name": "From MCP"}
created = requests.post(f"{url}/api/v1/admin/tenants", json=tenant, timeout=10).json()
for mode in ["auto", "legacy"]:
    asyncio.run(use_tools(created["secretKey"], mode))
assert requests.post(f"{url}/mcp", json={}, timeout=10).status_code == 401
print("mcp: called tools")
