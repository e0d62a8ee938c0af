"""What this package is called where packages are installed, and its version.

Both are known without its metadata, which a build beside the sources lacks.
"""

DISTRIBUTION = "ltd-decoding"
VERSION = "0.1.0"
