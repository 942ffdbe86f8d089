"""mAP, CMC, mINP, re-ranking and the quality of clusters. The only place that sees identities."""
