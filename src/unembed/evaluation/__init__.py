"""Measuring an inverter: sets, reports with intervals and bins, baselines, tables, figures.

- `sets`: what is inverted (`EvaluationSet`) and the seeded part of the training set beside it (`TrainingSample`).
- `measure`: recovered ids -> every metric with its 95% interval, in bins, with calibration.
- `harness`: runs strategies of an inverter and writes one JSON file for each; fits the calibration.
- `baselines`: what a denoiser has to beat.
- `tables`: Markdown and pictures from those files, never from typed numbers.
"""
