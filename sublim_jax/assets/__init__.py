"""Files that travel with the package; read them with `importlib.resources`."""
