"""A service with one handler that forgets what it runs on: aiohttp. `python service_aiohttp.py PORT`."""

import sys
import time

from aiohttp import web


async def load_prices(request):
    time.sleep(0.6)
    return web.Response(text="prices")


async def health(request):
    return web.Response(text="fine")


app = web.Application()
app.add_routes([web.get("/prices", load_prices), web.get("/health", health)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
