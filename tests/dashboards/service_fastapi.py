"""A service with one handler that forgets what it runs on: FastAPI. `python service_fastapi.py PORT`."""

import sys
import time

import uvicorn
import uvicorn.lifespan.on  # here, since on a slow machine uvicorn's own late imports are slow callbacks
import uvicorn.protocols.http.auto
import uvicorn.protocols.websockets.auto
from fastapi import FastAPI

app = FastAPI()


@app.get("/prices")
async def load_prices():
    time.sleep(0.6)
    return "prices"


@app.get("/health")
async def health():
    return "fine"


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
