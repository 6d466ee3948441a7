// Everything that the AWS SDK signs in its own way, against the store at
// $ENDPOINT.
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import {
  DeleteObjectCommand, GetObjectCommand, HeadObjectCommand, ListBucketsCommand, PutObjectCommand, S3Client,
} from '@aws-sdk/client-s3';
import { GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';

const region = 'us-east-1';
const endpoint = process.env.ENDPOINT;
const keys = ['plain.txt', "a b/ä+c~$&=@:;,!'()*#%25.txt", 'dots/../and//slashes/./x'];
const client = (settings) => new S3Client({ region, endpoint, forcePathStyle: true, maxAttempts: 1, ...settings });

async function putAndGet(s3, Key, body, args = {}) {
  const want = Buffer.from(body);
  const Body = args.stream ? Readable.from([want.subarray(0, 10), want.subarray(10)]) : body;
  delete args.stream;
  await s3.send(new PutObjectCommand({ Bucket: 'bucket', Key, Body, ContentLength: want.length, ...args }));
  const { Body: got } = await s3.send(new GetObjectCommand({ Bucket: 'bucket', Key }));
  assert.deepEqual(Buffer.from(await got.transformToByteArray()), want, Key);
}

for (const requestChecksumCalculation of ['WHEN_SUPPORTED', 'WHEN_REQUIRED']) {
  const s3 = client({ requestChecksumCalculation });
  await putAndGet(s3, 'text', 'some text');
  await putAndGet(s3, 'empty', '');
  await putAndGet(s3, 'buffer', Buffer.alloc(2_000_000, 'b'));
  await putAndGet(s3, 'stream', Buffer.alloc(2_000_000, 's'), { stream: true });
  for (const ChecksumAlgorithm of ['CRC32', 'CRC32C', 'CRC64NVME', 'SHA1', 'SHA256']) {
    await putAndGet(s3, 'sum', 'summed', { ChecksumAlgorithm });
    await putAndGet(s3, 'sum', Buffer.alloc(300_000, 's'), { ChecksumAlgorithm, stream: true });
  }
}

const s3 = client();
for (const Key of keys) {
  await putAndGet(s3, Key, Key, { Metadata: { note: 'two  spaces', other: 'a,b' } });
  const head = await s3.send(new HeadObjectCommand({ Bucket: 'bucket', Key }));
  assert.equal(head.ContentLength, Buffer.byteLength(Key));
}
assert.deepEqual((await s3.send(new ListBucketsCommand())).Buckets.map((b) => b.Name), ['bucket']);
await s3.send(new DeleteObjectCommand({ Bucket: 'bucket', Key: 'text' }));
await assert.rejects(s3.send(new GetObjectCommand({ Bucket: 'bucket', Key: 'text' })), { name: 'NoSuchKey' });

for (const Key of keys.slice(0, 2)) {
  const put = await getSignedUrl(s3, new PutObjectCommand({ Bucket: 'bucket', Key }), { expiresIn: 600 });
  assert.equal((await fetch(put, { method: 'PUT', body: 'presigned' })).status, 200);
  const get = await getSignedUrl(s3, new GetObjectCommand({ Bucket: 'bucket', Key, ResponseContentType: 'a/b; c=d e' }));
  assert.equal(await (await fetch(get)).text(), 'presigned');
}

const { Account } = await new STSClient({ region, endpoint, maxAttempts: 1 }).send(new GetCallerIdentityCommand());
assert.equal(Account, '123456789012');
process.exit(0);
