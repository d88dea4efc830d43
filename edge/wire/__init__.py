"""The wire contract, owned by the device: messages, their bytes, their topics. A leaf: it imports nothing of ours."""
