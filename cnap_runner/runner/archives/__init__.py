"""An agent as one file: what is in it (`manifest`), how it is written (`packing`) and read (`unpacking`), and the two moves around that
(`transfer`). Nothing here believes an archive, and nothing follows a link. docs/archives.md describes the format.
"""
