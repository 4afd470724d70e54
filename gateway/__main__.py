import sys
from pathlib import Path
from gateway.app import serve
sys.exit(serve(Path(sys.argv[2])))
