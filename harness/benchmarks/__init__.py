"""What takes how long: the label step and evaluation, stage by stage, beside their floor."""
