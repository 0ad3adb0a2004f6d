"""AWS's GPU image, which nodes start from. Standard library only: the command-line tool uses it, too."""

from __future__ import annotations

GPU_AMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""AWS's public parameter with the newest id in each region. The image has NVIDIA's driver for CUDA 13, Python 3.12, the
AWS CLI, the agents of SSM and CloudWatch."""
