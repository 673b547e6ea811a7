// One question through an official SDK: node ask.mjs openai|anthropic URL MODEL stream|plain [LIMIT_MS]
//
// Everything is as the SDK and Node have it by default. LIMIT_MS replaces the 300,000 ms that Node's
// fetch waits for headers, and between two pieces of a body. Writes a line when it is ready, asks when
// it reads one, and writes one JSON object.
import { once } from 'node:events';

import { Agent, fetch as fetchWith } from 'undici';

const [sdk, url, model, kind, limit] = process.argv.slice(2);
// One of them: each takes its time.
const { default: Client } = await import(sdk === 'openai' ? 'openai' : '@anthropic-ai/sdk');
const messages = [{ role: 'user', content: 'Say hi' }];
const stream = kind === 'stream';

function hurried(milliseconds) {
  const dispatcher = new Agent({ headersTimeout: milliseconds, bodyTimeout: milliseconds });
  return { fetch: (address, init) => fetchWith(address, { ...init, dispatcher }) };
}

async function openai(options) {
  const client = new Client({ baseURL: `${url}/v1`, ...options });
  const answer = await client.chat.completions.create({ model, messages, stream });
  if (!stream) return answer.choices[0].message.content;
  let text = '';
  for await (const chunk of answer) text += chunk.choices[0]?.delta?.content ?? '';
  return text;
}

async function anthropic(options) {
  const client = new Client({ baseURL: url, ...options });
  const asked = { model, messages, max_tokens: 8 };
  const answer = stream
    ? await client.messages.stream(asked).finalMessage()
    : await client.messages.create(asked);
  return answer.content[0].text;
}

const options = { apiKey: 'any', ...(limit ? hurried(Number(limit)) : {}) };
console.log();
await once(process.stdin, 'data');
const began = performance.now();
const told = { text: null, error: null };
try {
  told.text = await (sdk === 'openai' ? openai : anthropic)(options);
} catch (error) {
  told.error = [error.constructor.name, error.message, error.cause?.code ?? error.cause?.message].join(': ');
}
console.log(JSON.stringify({ ...told, seconds: (performance.now() - began) / 1000 }));
process.exit(0);
