"""What a model trains on: select, plan, audit, stream."""
