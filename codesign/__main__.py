"""`python -m codesign`: the same program as `codesign`."""

from codesign.cli import program

if __name__ == "__main__":
    program()
