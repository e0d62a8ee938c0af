"""The version of this package, known without its metadata, which a build beside the sources lacks."""

VERSION = "0.1.0"
