"""The training itself: network, optimizer, schedule, devices, loop, callbacks and checkpoints."""
