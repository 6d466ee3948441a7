"""Everything that boto3 signs in its own way, against the store at $ENDPOINT."""

import io
import itertools
import os
import urllib.request
import ssl

import boto3
from botocore.config import Config

ENDPOINT = os.environ["ENDPOINT"]
KEYS = ["plain.txt", "a b/ä+c~$&=@:;,!'()*#%25.txt", "dots/../and//slashes/./x"]
TLS = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"]) if ENDPOINT.startswith("https") else None


def client(service="s3", **settings):
    s3 = {"addressing_style": "path", **settings.pop("s3", {})}
    config = Config(s3=s3, signature_version=settings.pop("signature_version", None), retries={"total_max_attempts": 1}, **settings)
    return boto3.client(service, endpoint_url=ENDPOINT, config=config)


def put_and_get(s3, key, body, **args):
    want = body if isinstance(body, bytes) else body.getvalue()
    s3.put_object(Bucket="bucket", Key=key, Body=body, **args)
    got = s3.get_object(Bucket="bucket", Key=key)["Body"].read()
    assert got == want, f"{key}: {len(got)} bytes came back, {len(want)} were stored"


def settings():
    for signing, sums in itertools.product([None, True, False], ["when_supported", "when_required"]):
        s3 = {} if signing is None else {"payload_signing_enabled": signing}
        yield {"s3": s3, "request_checksum_calculation": sums}


def payloads():
    for s in settings():
        s3 = client(**s)
        put_and_get(s3, "bytes", b"some bytes")
        put_and_get(s3, "empty", b"")
        put_and_get(s3, "stream", io.BytesIO(b"0123456789abcdef" * 100_000))
        for sum in ["CRC32", "SHA1", "SHA256"]:
            put_and_get(s3, "sum", io.BytesIO(b"x" * 3_000_000), ChecksumAlgorithm=sum)


def calls():
    s3 = client()
    for key in KEYS:
        put_and_get(s3, key, key.encode(), Metadata={"note": "two  spaces", "other": "a,b"})
        assert s3.head_object(Bucket="bucket", Key=key)["ContentLength"] == len(key.encode())
    s3.get_object(Bucket="bucket", Key=KEYS[0], Range="bytes=0-3")
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["bucket"]
    s3.upload_fileobj(io.BytesIO(b"y" * 1_000_000), "bucket", "managed")
    s3.delete_object(Bucket="bucket", Key="managed")
    try:
        s3.get_object(Bucket="bucket", Key="managed")
    except s3.exceptions.NoSuchKey:
        pass
    else:
        raise AssertionError("a deleted object is there")


def presigned():
    s3 = client(signature_version="s3v4")
    for key in KEYS[:2]:
        put = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": key}, ExpiresIn=600)
        urllib.request.urlopen(urllib.request.Request(put, data=b"presigned", method="PUT", headers={"Content-Type": ""}), context=TLS)
        get = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": key, "ResponseContentType": "a/b; c=d e"})
        assert urllib.request.urlopen(get, context=TLS).read() == b"presigned"


def identity():
    sts = client("sts")
    assert sts.get_caller_identity()["Account"] == "123456789012"
    url = sts.generate_presigned_url("get_caller_identity", HttpMethod="GET")
    assert b"123456789012" in urllib.request.urlopen(url, context=TLS).read()


payloads()
calls()
presigned()
identity()
