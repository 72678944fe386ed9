"""The arithmetic behind `lite/plan.py`: bytes, tiers and estimated times, without a tensor."""
