// The parts in the order in which they are told of a change, and the view that the address asks for.

makeRecord();
makeControls();
makePanels();
makeList();
openFromTables();
makeCurves();
onView(writeAddress);
window.addEventListener("hashchange", readAddress);
readAddress();
