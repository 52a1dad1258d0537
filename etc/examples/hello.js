// Sorts words. Try: bin/cronium-supervisor exec etc/examples/hello.js
const cronium = require('cronium');

const words = ['queue', 'worker', 'journal', 'stream', 'container'];

async function main() {
  console.log(`Hello from Node ${process.version}`);
  const sorted = [];
  for (const word of words.sort()) {
    sorted.push(word);
    console.log(`${sorted.length}. ${word}`);
    cronium.progress((100 * sorted.length) / words.length, word);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  cronium.output({ sorted });
}

main();
