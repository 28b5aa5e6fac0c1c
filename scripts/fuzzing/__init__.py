"""Malformed input against every decoder and every door: the parts of `scripts/fuzz`.

`tape` says how a message is damaged, `seeds` what is damaged, the files between them and `run` hold one family of
targets each, `run` judges, `guided` lets coverage choose the input.
"""
