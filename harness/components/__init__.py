"""The parts of methods, which never see identities: backbones, labelers, objectives, distillers."""
