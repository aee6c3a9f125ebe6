() => {
  // What is pasted goes where it could have been dropped.
  document.addEventListener("paste", (event) => {
    const input = document.querySelector("#pictures input[type=file]");
    if (!input || !event.clipboardData || !event.clipboardData.files.length) return;
    const chosen = new DataTransfer();
    for (const file of event.clipboardData.files) chosen.items.add(file);
    input.files = chosen.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
