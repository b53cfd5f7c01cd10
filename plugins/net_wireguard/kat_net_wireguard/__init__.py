"""KAT's default network: routed containers, a WireGuard overlay, virtual IPs by nftables."""
