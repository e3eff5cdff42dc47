"""Stand-in of `hat.utils.config`: a configuration is a Python file, its names become attributes."""

import runpy


class Config:
    @classmethod
    def fromfile(cls, file):
        config = cls()
        config.__dict__.update({name: value for name, value in runpy.run_path(file).items() if not name.startswith("__")})
        return config
