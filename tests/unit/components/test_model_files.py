"""A region's model files under mocks."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws
import pytest

from components.model_files import ModelFiles, ModelFilesArgs
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

SEEN: list[str] = []
"""The component's own outputs, those of the last run at the end."""


def files(*, protect: bool = True) -> Program:
    def program() -> None:
        made = ModelFiles(
            "model-files-us-west-2",
            ModelFilesArgs(
                placement=Placement(region="us-west-2", environment="dev", account=ACCOUNT),
                subnet_id="subnet-1",
                security_group_id="sg-1",
                key_arn=f"arn:aws:kms:us-west-2:{ACCOUNT}:key/storage",
                bucket_name=pulumi.Output.from_input("models-1"),
                capacity_gib=1200,
                throughput=250,
                protect=protect,
            ),
            pulumi.ResourceOptions(provider=aws.Provider("aws", region="us-west-2")),
        )
        for output in (made.file_system_id, made.dns_name, made.mount_name):
            output.apply(SEEN.append)

    return record(program)


def test_the_file_system_is_persistent_on_ssd_in_one_subnet() -> None:
    made = files()
    lustre = made.one("fsx/lustreFileSystem:LustreFileSystem")
    assert made.region(lustre) == "us-west-2"
    assert lustre.inputs["deploymentType"] == "PERSISTENT_2", "data repository associations need it"
    assert lustre.inputs["storageType"] == "SSD"
    assert lustre.inputs["storageCapacity"] == 1200
    assert lustre.inputs["perUnitStorageThroughput"] == 250
    assert lustre.inputs["subnetIds"] == "subnet-1"
    assert lustre.inputs["securityGroupIds"] == ["sg-1"]
    assert lustre.inputs["kmsKeyId"].endswith("key/storage")


def test_it_asks_for_no_backups_which_a_linked_file_system_cannot_have() -> None:
    lustre = files().one("fsx/lustreFileSystem:LustreFileSystem").inputs
    assert lustre["automaticBackupRetentionDays"] == 0
    assert lustre["skipFinalBackup"] is True


def test_the_bucket_is_imported_and_exported() -> None:
    made = files()
    link = made.one("fsx/dataRepositoryAssociation:DataRepositoryAssociation")
    assert link.inputs["dataRepositoryPath"] == "s3://models-1"
    assert link.inputs["fileSystemPath"] == "/"
    assert link.inputs["batchImportMetaDataOnCreate"] is True, "models uploaded earlier appear too"
    for way in ("autoImportPolicy", "autoExportPolicy"):
        assert link.inputs["s3"][way] == {"events": ["NEW", "CHANGED", "DELETED"]}
    assert made.one("fsx/lustreFileSystem:LustreFileSystem").urn in link.dependencies
    assert not link.inputs["deleteDataInFilesystem"]


def test_its_address_is_known_to_those_who_mount_it() -> None:
    files()
    # Every computed output of the recorder says which one it is.
    assert {value.partition("-")[0] for value in SEEN[-3:]} == {"dnsName", "mountName", "model"}


@pytest.mark.parametrize("protect", [True, False])
def test_files_are_kept_where_data_lives(protect: bool) -> None:  # noqa: FBT001 - both cases of one column
    lustre = files(protect=protect).one("fsx/lustreFileSystem:LustreFileSystem")
    assert (lustre.protect, lustre.retain_on_delete) == (protect, protect)
    assert lustre.parent.endswith("mrgc:model_files:ModelFiles::model-files-us-west-2")
