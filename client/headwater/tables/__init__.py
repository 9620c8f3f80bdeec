"""Events and keys as tables: Arrow, Parquet and JSON lines, for tools that analyse data.

It needs pyarrow for the first two: `pip install "headwater[arrow]"`. Nothing else imports pyarrow.
"""
