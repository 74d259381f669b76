"""What happens inside one transaction: plain functions of a connection, one module per concern. None of them waits for anything."""
