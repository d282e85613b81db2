"""The application that ships: a run's SavedModel → ONNX, LiteRT → verified → served."""
