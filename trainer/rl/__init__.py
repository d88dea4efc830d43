"""Federated distillation for reinforcement learning: agents, their exchange, studies over many seeds."""
