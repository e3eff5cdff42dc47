"""Toolchains: what turns an exported qat model into int and hbm, one module each, one interface (`base.Toolchain`)."""
