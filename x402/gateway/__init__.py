"""The seller: from request to receipt."""
