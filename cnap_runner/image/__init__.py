"""The image of the containers: pinned packages, base image, build."""
