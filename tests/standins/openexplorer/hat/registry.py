"""Stand-in of `hat.registry`: objects by name, built from dictionaries with `type`."""

REGISTRY = {}


class RegistryContext:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


class _Registry:
    def register(self, thing):
        REGISTRY[thing.__name__] = thing
        return thing

    register_module = register


OBJECT_REGISTRY = _Registry()


def build_from_registry(described):
    if isinstance(described, dict):
        built = {key: build_from_registry(value) for key, value in described.items() if key != "type"}
        if "type" not in described:
            return built
        kind = described["type"]
        return (REGISTRY[kind] if isinstance(kind, str) else kind)(**built)
    if isinstance(described, (list, tuple)):
        return type(described)(build_from_registry(item) for item in described)
    return described
