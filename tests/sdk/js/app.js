// An app on the Dapr SDK for JavaScript, told what to do line by line (see tests/sdk/app.py): node app.js GRPC|HTTP PORT.
//
// The SDK has no jobs API yet: commands go through the generated calls of its own client, and its server takes whatever comes.
const readline = require('readline');
const { CommunicationProtocolEnum, DaprClient, DaprServer } = require('@dapr/dapr');

const [protocol, port] = process.argv.slice(2);
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const logger = { level: 'error' };
const host = '127.0.0.1';

async function carryOut(calls, command) {
  const { name } = command;
  switch (command.do) {
    case 'schedule': {
      const job = { name, schedule: command.schedule, repeats: command.repeats, dueTime: command.due_time, ttl: command.ttl };
      if (command.data != null) job.data = { typeUrl: command.type_url ?? '', value: Buffer.from(command.data, 'base64') };
      await calls.scheduleJobAlpha1({ job, overwrite: command.overwrite ?? false });
      return null;
    }
    case 'get': {
      const { job } = await calls.getJobAlpha1({ name });
      const data = job.data && Buffer.from(job.data.value).toString('base64');
      return { name: job.name, schedule: job.schedule, repeats: job.repeats, due_time: job.dueTime, ttl: job.ttl, data, type_url: job.data?.typeUrl };
    }
    case 'delete':
      await calls.deleteJobAlpha1({ name });
      return null;
  }
  throw new Error(`unknown command ${command.do}`);
}

async function main() {
  const ports = { GRPC: process.env.DAPR_GRPC_PORT, HTTP: process.env.DAPR_HTTP_PORT };
  const options = (name) => ({ daprHost: host, daprPort: ports[name], communicationProtocol: CommunicationProtocolEnum[name], daprApiToken: process.env.DAPR_API_TOKEN, logger });
  const server = new DaprServer({ serverHost: host, serverPort: port, communicationProtocol: CommunicationProtocolEnum[protocol], clientOptions: options(protocol), logger });
  await server.start();
  const client = new DaprClient(options('GRPC'));
  await client.start();
  const calls = await client.daprClient.getClient();
  for await (const line of readline.createInterface({ input: process.stdin })) {
    try {
      const command = JSON.parse(line);
      const ids = async () => ({ client: (await client.metadata.get()).id, server: (await server.client.metadata.get()).id });
      say({ done: command.do === 'metadata' ? await ids() : await carryOut(calls, command) });
    } catch (error) {
      say({ error: String(error.message) });
    }
  }
}

main();
