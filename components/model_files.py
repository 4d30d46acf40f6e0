"""A region's model files: FSx for Lustre, linked to the region's bucket both ways.

PERSISTENT_2 on SSD. What appears in the bucket appears as a file and is read from S3 when first opened; what is written
is exported. It has no backups of its own, since FSx takes none of a linked file system: the bucket's versions are them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_aws as aws

from components.placement import Placement

LUSTRE_VERSION: Final = "2.15"
"""Data repository associations need 2.12; 2.15 has clients for current kernels."""
EVENTS: Final = ("NEW", "CHANGED", "DELETED")


@dataclass(frozen=True, kw_only=True)
class ModelFilesArgs:
    """`capacity_gib` in GiB; `throughput` in MB/s for each TiB; the subnet is one, the bucket of the same region."""

    placement: Placement
    subnet_id: pulumi.Input[str]
    security_group_id: pulumi.Input[str]
    key_arn: pulumi.Input[str]
    bucket_name: pulumi.Input[str]
    capacity_gib: int
    throughput: int
    protect: bool


class ModelFiles(pulumi.ComponentResource):
    """`file_system_id`, `dns_name` and `mount_name`: a client mounts `dns_name@tcp:/mount_name`."""

    file_system_id: pulumi.Output[str]
    dns_name: pulumi.Output[str]
    mount_name: pulumi.Output[str]

    def __init__(self, name: str, args: ModelFilesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:model_files:ModelFiles", name, None, opts)
        files = aws.fsx.LustreFileSystem(
            f"{name}-lustre",
            deployment_type="PERSISTENT_2",
            storage_type="SSD",
            storage_capacity=args.capacity_gib,
            per_unit_storage_throughput=args.throughput,
            file_system_type_version=LUSTRE_VERSION,
            subnet_ids=args.subnet_id,
            security_group_ids=[args.security_group_id],
            kms_key_id=args.key_arn,
            automatic_backup_retention_days=0,
            skip_final_backup=True,
            tags=args.placement.tags("model-files", "models"),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, retain_on_delete=args.protect),
        )
        self.file_system_id = files.id
        self.dns_name = files.dns_name
        self.mount_name = files.mount_name
        aws.fsx.DataRepositoryAssociation(
            f"{name}-link",
            file_system_id=files.id,
            # The whole bucket at the root: the file system has this one link.
            file_system_path="/",
            data_repository_path=pulumi.Output.format("s3://{0}", args.bucket_name),
            batch_import_meta_data_on_create=True,
            # Taking the link away leaves the files: the bucket has them too, but hosts may be reading.
            delete_data_in_filesystem=False,
            s3=aws.fsx.DataRepositoryAssociationS3Args(
                auto_import_policy=aws.fsx.DataRepositoryAssociationS3AutoImportPolicyArgs(events=list(EVENTS)),
                auto_export_policy=aws.fsx.DataRepositoryAssociationS3AutoExportPolicyArgs(events=list(EVENTS)),
            ),
            tags=args.placement.tags("model-files", "models"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs(
            {"file_system_id": self.file_system_id, "dns_name": self.dns_name, "mount_name": self.mount_name}
        )
