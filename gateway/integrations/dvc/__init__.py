"""A Git repository with DVC pins and GTO tags as a source of rollouts: git by its command, nothing of DVC is imported.

* clone: the repository's commits, tags and small files, by a bare copy in the state directory
* gto: what tags say of versions and stages
* pins: what a commit's `.dvc` and `dvc.lock` files say of a path: digest and size
* remotes: contents by their MD5 from a directory, over HTTP(S), or from S3
* memory: what was asked for last, and which ends are settled
* source: which version is asked for, and what follows a promotion
"""
