"""The buyer: from 402 to answer."""
