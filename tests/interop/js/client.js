// A client of the scheduler on @grpc/grpc-js. See tests/interop/scheduler_client.py for what it says and when.
//
//   node client.js PROTOS ADDRESS APP_ID [CA CERTIFICATE KEY]
const fs = require('fs');
const readline = require('readline');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [protos, address, appId, ...files] = process.argv.slice(2);
const definition = loader.loadSync('dapr/proto/scheduler/v1/scheduler.proto', { includeDirs: [protos], keepCase: true, longs: Number });
const { Scheduler } = grpc.loadPackageDefinition(definition).dapr.proto.scheduler.v1;

function security() {
  if (files.length === 0) return grpc.credentials.createInsecure();
  const [authority, certificate, key] = files.map((name) => fs.readFileSync(name));
  return grpc.credentials.createSsl(authority, key, certificate);
}

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const titled = (code) => grpc.status[code].split('_').map((part) => part[0] + part.slice(1).toLowerCase()).join('');
const client = new Scheduler(address, security(), { 'grpc.initial_reconnect_backoff_ms': 100, 'grpc.max_reconnect_backoff_ms': 300 });
const metadata = { app_id: appId, namespace: 'default', target: { job: {} } };

function call(method, request) {
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + 30000 };
    const waiting = new grpc.Metadata({ waitForReady: true });
    client[method](request, waiting, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

function watch() {
  const stream = client.WatchJobs(new grpc.Metadata({ waitForReady: true }));
  stream.on('metadata', () => say({ watching: true }));
  stream.on('data', (trigger) => {
    say({ trigger: trigger.name, index: trigger.occurrence.index, data: trigger.data.value.toString('base64') });
    stream.write({ result: { id: trigger.id, status: 'SUCCESS' } });
  });
  stream.on('error', () => {});
  stream.on('status', (status) => {
    say({ broken: titled(status.code) });
    setTimeout(watch, 100);
  });
  stream.write({ initial: { app_id: appId, namespace: 'default' } });
}

async function main() {
  const hosts = client.WatchHosts({});
  hosts.on('error', () => {});
  const first = await new Promise((resolve) => hosts.once('data', resolve));
  say({ hosts: first.hosts.length });
  hosts.cancel();
  watch();
  const request = { name: 'tick', job: { schedule: '@every 250ms', data: { value: Buffer.from([0, 1, 254, 255]) } }, metadata };
  await call('ScheduleJob', request);
  await call('ScheduleJob', request).catch((error) => say({ again: titled(error.code) }));
  const got = await call('GetJob', { name: 'tick', metadata });
  const listed = await call('ListJobs', { metadata });
  say({ got: got.job.schedule, listed: listed.jobs.map((job) => job.name) });
  const lines = readline.createInterface({ input: process.stdin });
  await new Promise((resolve) => lines.once('line', resolve));
  await call('DeleteJob', { name: 'tick', metadata });
  await call('GetJob', { name: 'tick', metadata }).catch((error) => say({ deleted: error.code === grpc.status.NOT_FOUND }));
  process.exit(0);
}

main();
