"""An agent as one file: what is in it (`manifest`), how it is written (`packing`) and read (`unpacking`), and what is done around that
(`leaving`, `arriving`). Nothing here believes an archive, and nothing follows a link. docs/archives.md describes the format.
"""
