"""Where things stand in the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Certificate and key for localhost, made for these tests alone.
CERTIFICATE = ROOT / "tests" / "data" / "localhost.pem"
