"""traceloop run gunicorn -c gunicorn.conf.py app:app

Every worker has a record of its own; one collector serves the metrics of them all. `process` in the metrics is a
worker's slot: a worker that is started again takes the slot of the one that it replaces.
"""

import os

bind = os.environ.get("SHOP_BIND", "0.0.0.0:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
# uvicorn's worker asks for uvloop where that is installed; under `traceloop run` it gets the traced loop.
worker_class = os.environ.get("SHOP_WORKER", "uvicorn.workers.UvicornWorker")
# Less than the time that systemd (TimeoutStopSec) or Kubernetes (terminationGracePeriodSeconds) waits for the whole.
graceful_timeout = 20
# gunicorn's heartbeat files: not into the container's layer, which is read-only, and not on a disk.
worker_tmp_dir = "/dev/shm"
# gunicorn 25 and later keep a control socket in the home folder, which a container may not have.
control_socket_disable = True
